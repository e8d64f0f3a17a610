"""Files that were released: where they lie, what they are, and how each is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["RELEASES", "Drive", "Member", "Page", "Release", "Source", "Web"]

COMMIT = "8575f06e21cb9743ee26722060a64cefa8fc2490"
RAW = "https://raw.githubusercontent.com"
# The repository was renamed; the old name redirects as long as nobody takes it.
GIT = tuple(f"{RAW}/liyuantsao/{name}/{COMMIT}/LINF-LP" for name in ("BFSR", "FlowSR-LP"))
SRFLOW = "https://data.vision.ee.ethz.ch/alugmayr/SRFlow"
BFSR_PAGE = "https://github.com/liyuantsao/BFSR"
LINF_PAGE = "https://github.com/JNNNNYao/LINF"
TORCHVISION = "https://download.pytorch.org/models"
LPIPS = f"{RAW}/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
DISTS = f"{RAW}/dingkeyan93/DISTS/master/DISTS_pytorch/weights.pt"

NOT_STATED = "not stated; ask its authors before passing it on"
RESEARCH = "CC BY-NC-SA 4.0, research only"


@dataclass(frozen=True)
class Web:
    """A file at addresses that are tried in turn."""

    urls: tuple[str, ...]


@dataclass(frozen=True)
class Drive:
    """A file on Google Drive, by its id."""

    id: str
    page: str


@dataclass(frozen=True)
class Member:
    """A file within a zip archive, of which only its part is downloaded."""

    url: str


@dataclass(frozen=True)
class Page:
    """A file that a person finds by the links of a page."""

    url: str
    link: str


Source = Web | Drive | Member | Page


@dataclass(frozen=True)
class Release:
    """A file that others released.

    Attributes:
        what: Network and scale.
        megabytes: Size in 10^6 bytes, computed from the number of parameters; None if unknown.
        license: License that its source states.
        source: Where it lies.
        blob: Git blob id, the SHA-1 of `blob <bytes>`, a zero byte and the content; None if it
            is not known.
        sha256: Beginning of its SHA-256, None if it is not known.
    """

    what: str
    megabytes: float | None
    license: str
    source: Source
    blob: str | None = None
    sha256: str | None = None

    @property
    def check(self) -> str:
        """How a download is told from another file."""
        if self.blob is not None:
            return "git blob id"
        if self.sha256 is not None:
            return f"SHA-256 begins with {self.sha256}"
        return (
            "CRC-32 of the zip" if isinstance(self.source, Member) else "it must be an archive"
        )


def _git(name: str, what: str, megabytes: float, blob: str) -> Release:
    urls = tuple(f"{folder}/{name}" for folder in GIT)
    return Release(what, megabytes, NOT_STATED, Web(urls), blob)


def _by_hand(what: str, megabytes: float | None, page: str, link: str) -> Release:
    return Release(what, megabytes, NOT_STATED, Page(page, link))


def _srflow(what: str, megabytes: float | None) -> Release:
    return Release(what, megabytes, RESEARCH, Member(f"{SRFLOW}/pretrained_models.zip"))


RELEASES: Final = {
    "edsr-baseline-linf.pth": _git(
        *("edsr-baseline-linf.pth", "LINF, EDSR-baseline, patches of 3x3", 8.2),
        "079b74f0da7e23d37e7d1d395d1185ceaa5c80fa",
    ),
    "edsr-baseline-linf-LP.pth": _git(
        *("edsr-baseline-linf-LP.pth", "learned prior (U-Net) for it", 18.3),
        "71d80edaf869e2b08f559c56ae5b1d305fe36e25",
    ),
    "rrdb-linf.pth": _git(
        *("rrdb-linf.pth", "LINF, RRDB, patches of 3x3", 70.0),
        "c3c154628900c2f7c1a02ec473d9259c52b31d1d",
    ),
    "rrdb-linf-LP.pth": _git(
        *("rrdb-linf-LP.pth", "learned prior (U-Net) for it", 18.3),
        "442a54388ee4517c49bf29ff74418388fde558eb",
    ),
    "SRFlow-LP.pth": Release(
        "learned prior for SRFlow 4x",
        38.7,
        NOT_STATED,
        Drive("19w9dDQdgOGRbmP-x2eAb-BM81G2adf4_", BFSR_PAGE),
    ),
    "EDSR-baseline-LINF.pth": _by_hand(
        "LINF, EDSR-baseline, single pixels", 8.2, LINF_PAGE, "EDSR-baseline-LINF"
    ),
    "RDN-LINF.pth": _by_hand("LINF, RDN, single pixels", 91.2, LINF_PAGE, "RDN-LINF"),
    "SwinIR-LINF.pth": _by_hand("LINF, SwinIR, single pixels", 53.0, LINF_PAGE, "SwinIR-LINF"),
    "RRDB-LINF.pth": _by_hand("LINF, RRDB, patches of 3x3", 70.0, LINF_PAGE, "RRDB-LINF (3x3)"),
    "SRFlow_DF2K_4X.pth": _srflow("SRFlow 4x", 158.0),
    "SRFlow_DF2K_8X.pth": _srflow("SRFlow 8x", None),
    "SRFlow_CelebA_8X.pth": _srflow("SRFlow 8x, faces", None),
    "RRDB_DF2K_4X.pth": _srflow("RRDB 4x, with which SRFlow's training begins", 66.8),
    "RRDB_DF2K_8X.pth": _srflow("RRDB 8x, the same", None),
    "RRDB_CelebA_8X.pth": _srflow("RRDB 8x, faces, the same", None),
    "datasets.zip": Release(
        "images of SRFlow's evaluation", None, RESEARCH, Web((f"{SRFLOW}/datasets.zip",))
    ),
    "alexnet-owt-7be5be79.pth": Release(
        "AlexNet, for LPIPS",
        244.4,
        "torchvision's (BSD-3-Clause); trained on ImageNet",
        Web((f"{TORCHVISION}/alexnet-owt-7be5be79.pth",)),
        sha256="7be5be79",
    ),
    "alex.pth": Release("LPIPS v0.1", 0.006, "BSD-2-Clause", Web((f"{LPIPS}/alex.pth",))),
    "vgg16-397923af.pth": Release(
        "VGG16, for DISTS",
        553.4,
        "torchvision's (BSD-3-Clause); trained on ImageNet",
        Web((f"{TORCHVISION}/vgg16-397923af.pth",)),
        sha256="397923af",
    ),
    "dists.pt": Release("DISTS", 0.012, "MIT", Web((DISTS,))),
    "vgg19-dcbb9e9d.pth": Release(
        "VGG19, the perceptual loss as published",
        574.7,
        "torchvision's (BSD-3-Clause); trained on ImageNet",
        Web((f"{TORCHVISION}/vgg19-dcbb9e9d.pth",)),
        sha256="dcbb9e9d",
    ),
}
"""Every file by the name under which it is kept."""
