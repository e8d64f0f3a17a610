"""Downloads of released checkpoints, and of the weights that judge or teach."""

from flowsr_export.fetch.download import Fetched, blob_id, fetch
from flowsr_export.fetch.releases import RELEASES, Release

__all__ = ["RELEASES", "Fetched", "Release", "blob_id", "fetch"]
