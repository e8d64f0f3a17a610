"""The commands, which are imported when they are called, and the files that they read."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

datas = [*collect_data_files("flowsr_export"), *copy_metadata("flowsr-lp")]
hiddenimports = collect_submodules("flowsr_export")
