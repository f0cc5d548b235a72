"""
Loss terms that keep their scale: the running RMS, and a perceptual term without downloads.

MS-SSIM: Wang et al., "Multi-scale structural similarity" (2003); LPIPS: Zhang et al., "The
unreasonable effectiveness of deep features" (arXiv 1801.03924).
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ..together import mean_over_processes

RMS_DECAY = 0.99
SCALES = 3
SSIM_WINDOW = 7
MIN_SIDE = 8


class RunningRms(nn.Module):
    """
    Divide a loss by the running root mean square of itself, the same on all processes.

    Its state belongs into a checkpoint: without it the first updates after a resume would be of
    another size.  The first value initialises it.
    """

    square: Tensor
    started: Tensor

    def __init__(self, decay: float = RMS_DECAY) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer('square', torch.zeros(()))
        self.register_buffer('started', torch.zeros((), dtype=torch.bool))

    def forward(self, loss: Tensor) -> Tensor:
        """Return the loss (), scaled; in training the scale follows it, without gradient."""
        if self.training:
            # Of the global batch's loss: the number of processes must not change its size.
            square = mean_over_processes(loss.detach().float()).square()
            moved = torch.where(self.started, torch.lerp(square, self.square, self.decay), square)
            # A value that is not finite is skipped by the trainer and must not stay here.
            self.square.copy_(torch.where(moved.isfinite(), moved, self.square))
            self.started |= moved.isfinite()
        return loss / (self.square + 1e-8).sqrt()


class GradMsSsim(nn.Module):
    """L1 of the images' gradients at three scales plus 1 - MS-SSIM; needs no learned weights."""

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Compare images (N, 3, H, W) in [-1, 1]; returns ()."""
        edges, structure = made.new_zeros(()), made.new_ones(())
        scales = [scale for scale in range(SCALES) if made.shape[-1] >> scale >= MIN_SIDE]
        for scale in scales:
            if scale:
                made, real = F.avg_pool2d(made, 2), F.avg_pool2d(real, 2)
            for axis in (-1, -2):
                edges = edges + (made.diff(dim=axis) - real.diff(dim=axis)).abs().mean()
            luminance, contrast = _ssim(made, real)
            kept = luminance * contrast if scale == scales[-1] else contrast
            structure = structure * kept.clamp(min=1e-4) ** (1 / len(scales))
        return edges / max(1, len(scales)) + 1 - structure


def _ssim(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean luminance and contrast-structure terms of images with a span of 2."""
    mean_made, mean_real = (F.avg_pool2d(x, SSIM_WINDOW, 1) for x in (made, real))
    square_made, square_real = (F.avg_pool2d(x.square(), SSIM_WINDOW, 1) for x in (made, real))
    product = F.avg_pool2d(made * real, SSIM_WINDOW, 1)
    spread_made, spread_real = square_made - mean_made**2, square_real - mean_real**2
    shared = product - mean_made * mean_real
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    luminance = (2 * mean_made * mean_real + c1) / (mean_made**2 + mean_real**2 + c1)
    contrast = (2 * shared + c2) / (spread_made + spread_real + c2)
    return luminance.mean(), contrast.mean()


class Lpips(nn.Module):
    """
    LPIPS on VGG-16 from a weights file of the user's.

    The file is safetensors and holds ``features.N.weight`` and ``features.N.bias`` as torchvision
    names VGG-16's convolutions, and ``linK.model.1.weight`` (K = 0..4) as the package lpips names
    its learned weights.  Nothing is downloaded and no pickle is read.
    """

    shift: Tensor
    scale: Tensor

    # Channels of VGG-16's convolutions, a pool between the stages; features are read at each end.
    STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self, weights: Path) -> None:
        """
        Read the weights.

        :raises ValueError: the file lacks a tensor or has another shape for it.
        """
        super().__init__()
        self.register_buffer('shift', torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer('scale', torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.stages, self.readouts = nn.ModuleList(), nn.ParameterList()
        stored, index, before = load_file(weights), 0, 3
        for stage, widths in enumerate(self.STAGES):
            convolutions = nn.ModuleList()
            for width in widths:
                convolution = nn.Conv2d(before, width, 3, padding=1)
                for name, own in convolution.named_parameters():
                    own.data.copy_(_stored(stored, f'features.{index}.{name}', own, weights))
                convolutions.append(convolution)
                index, before = index + 2, width  # a ReLU lies between
            index += 1  # and a pool here
            readout = torch.empty(1, before, 1, 1)
            name = f'lin{stage}.model.1.weight'
            self.readouts.append(nn.Parameter(_stored(stored, name, readout, weights)))
            self.stages.append(convolutions)
        self.requires_grad_(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Compare images (N, 3, H, W) in [-1, 1]; returns ()."""
        x = (torch.cat((made, real)) - self.shift) / self.scale
        distance = made.new_zeros(())
        for stage, (convolutions, readout) in enumerate(zip(self.stages, self.readouts)):
            if stage:
                x = F.max_pool2d(x, 2)
            assert isinstance(convolutions, nn.ModuleList)
            for convolution in convolutions:
                x = F.relu(convolution(x))
            one, other = (x / (x.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
            distance = distance + ((one - other).square() * readout).sum(dim=1).mean()
        return distance


def _stored(stored: dict[str, Tensor], name: str, own: Tensor, source: Path) -> Tensor:
    if name not in stored or stored[name].shape != own.shape:
        found = tuple(stored[name].shape) if name in stored else 'nothing'
        raise ValueError(
            f'{source} should hold {name} of shape {tuple(own.shape)} but holds {found}; save '
            "torchvision's vgg16 features and the lpips package's lin layers as safetensors"
        )
    return stored[name]


def perceptual(kind: str, weights: Path | None = None) -> nn.Module | None:
    """Return the perceptual term of a tokenizer; ValueError when LPIPS has no weights."""
    if kind == 'none':
        return None
    if kind == 'grad_msssim':
        return GradMsSsim()
    if weights is None:
        raise ValueError(
            "perceptual 'lpips' needs a weights file (safetensors), which is not downloaded here; "
            "give one, or use 'grad_msssim'"
        )
    return Lpips(weights)
