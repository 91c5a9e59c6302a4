"""The Decode tab: lanes that decode one prompt, their replay, forks, import and export."""
