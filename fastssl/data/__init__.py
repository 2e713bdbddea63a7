"""Data: images that come with the package, and folders of images."""

from fastssl.data.embedded import digits, emoji
from fastssl.data.folder import FolderImages, folder
from fastssl.data.images import Images
from fastssl.data.load import load

__all__ = ["FolderImages", "Images", "digits", "emoji", "folder", "load"]
