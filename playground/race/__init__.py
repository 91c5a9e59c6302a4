"""The Decode tab: lanes that answer one prompt, their race on the stage, forks, import and export."""
