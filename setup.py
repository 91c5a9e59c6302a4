"""What pyproject.toml cannot declare: the folder `assets` is installed inside the engine, as `nbdiff_engine/assets`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nbdiff_engine*", "playground*", "training*"]), "nbdiff_engine.assets"],
    package_dir={"nbdiff_engine.assets": "assets"},
    package_data={"nbdiff_engine.assets": ["**/*"], "training": ["clusters/*"], "training.recipe": ["bundled/*.yaml"]},
)
