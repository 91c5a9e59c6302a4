"""The Decode tab: lanes that answer one prompt, their replay on the stage, forks, import and export."""
