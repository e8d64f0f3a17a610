"""The built-in bundle, and the backends and formats that are imported when they are used."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

FORMATS = ("Avif", "Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP")

datas = collect_data_files("flowsr_runtime")
hiddenimports = [
    *(f"PIL.{name}ImagePlugin" for name in FORMATS),
    *collect_submodules("flowsr_runtime.backends"),
]
excludedimports = ["torch"]  # for engines of Inductor alone; a program that has them imports it
