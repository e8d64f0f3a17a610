"""The checkpoints that the authors of FlowSR-LP released, and how to tell each is the one."""

__all__ = ["DEFAULT_BASE_URL", "LICENCE_LINE", "RELEASES"]

DEFAULT_BASE_URL = "https://raw.githubusercontent.com/liyuantsao/FlowSR-LP/8575f06/LINF-LP/"

# File name to git blob id at that commit: the sha1 of "blob <bytes>\0" and the content.
RELEASES = {
    "edsr-baseline-linf.pth": "079b74f0da7e23d37e7d1d395d1185ceaa5c80fa",
    "edsr-baseline-linf-LP.pth": "71d80edaf869e2b08f559c56ae5b1d305fe36e25",
    "rrdb-linf.pth": "c3c154628900c2f7c1a02ec473d9259c52b31d1d",
    "rrdb-linf-LP.pth": "442a54388ee4517c49bf29ff74418388fde558eb",
}

LICENCE_LINE = (
    "these files belong to the authors of FlowSR-LP (Tsao et al., CVPR 2024), not to this "
    "project's licence; read https://github.com/liyuantsao/FlowSR-LP before passing them on"
)
