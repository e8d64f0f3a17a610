"""The built-in bundle, and the readers of formats, which are imported by their names."""

from PyInstaller.utils.hooks import collect_data_files

FORMATS = ("Avif", "Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP")

datas = collect_data_files("flowsr_runtime")
hiddenimports = [f"PIL.{name}ImagePlugin" for name in FORMATS]
excludedimports = ["torch"]  # for engines of Inductor alone; a program that has them imports it
