"""What HEAL calls a tensor, and what it is called here.

Names of tensors in its checkpoints are taken from public documentation; the shapes and values are the same, so a weight
keeps its meaning (3D convolutions aside, see `spconv_layout`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str]]

# He et al.'s basic block, as `nn.residual.ResidualBlock`
BASIC_BLOCK: Rules = (
    (r"conv1\.", "first.0."),
    (r"bn1\.", "first.1."),
    (r"conv2\.", "second.0."),
    (r"bn2\.", "second.1."),
    (r"downsample\.", "skip."),
)
# the bottleneck of ResNet and ResNeXt, as `nn.bottleneck.Bottleneck`
BOTTLENECK: Rules = (
    (r"conv1\.", "reduce.0."),
    (r"bn1\.", "reduce.1."),
    (r"conv2\.", "spatial.0."),
    (r"bn2\.", "spatial.1."),
    (r"conv3\.", "expand.0."),
    (r"bn3\.", "expand.1."),
    (r"downsample\.", "skip."),
)


def below(prefix: str, new_prefix: str, rules: Rules) -> Rules:
    """The rules for what lies below a prefix (a pattern); `new_prefix` may name its groups."""
    return [(prefix + pattern, new_prefix + name) for pattern, name in rules]


CONVNEXT: Rules = (
    (r"gamma$", "scale"),
    (r"dwconv\.", "depthwise."),
    (r"norm\.", "norm."),
    (r"pwconv1\.", "widen."),
    (r"pwconv2\.", "narrow."),
)
PILLARS: Rules = ((r"pillar_vfe\.pfn_layers\.0\.", "pillars."),)
SPARSE: Rules = (
    (r"spconv_block\.conv_input\.0\.", "stages.0.0.convolution."),
    (r"spconv_block\.conv_input\.1\.", "stages.0.0.norm."),
    (r"spconv_block\.conv1\.0\.0\.", "stages.0.1.convolution."),
    (r"spconv_block\.conv1\.0\.1\.", "stages.0.1.norm."),
    *(
        (rf"spconv_block\.conv{level}\.(\d)\.{layer}\.", rf"stages.{level - 1}.\1.{name}.")
        for level in (2, 3, 4)
        for layer, name in ((0, "convolution"), (1, "norm"))
    ),
    (r"spconv_block\.conv_out\.0\.", "flatten.convolution."),
    (r"spconv_block\.conv_out\.1\.", "flatten.norm."),
)
EFFICIENTNET: Rules = (
    (r"_conv_stem\.", "stem.0."),
    (r"_bn0\.", "stem.1."),
    *below(
        r"_blocks\.(\d+)\.",
        r"blocks.\1.",
        (
            (r"_expand_conv\.", "expand.0."),
            (r"_bn0\.", "expand.1."),
            (r"_depthwise_conv\.", "depthwise.0."),
            (r"_bn1\.", "depthwise.1."),
            (r"_se_reduce\.", "squeeze.reduce."),
            (r"_se_expand\.", "squeeze.expand."),
            (r"_project_conv\.", "project.0."),
            (r"_bn2\.", "project.1."),
        ),
    ),
    (r"_conv_head\.", "classifier.0."),
    (r"_bn1\.", "classifier.1."),
    (r"_fc\.", "classifier.2."),
)
CAMERA: Rules = (
    *below(r"camencode\.trunk\.", "trunk.network.", EFFICIENTNET),
    (r"camencode\.up1\.conv\.", "trunk.up.0.mix."),
    (r"camencode\.up2\.conv\.", "trunk.up.1.mix."),
    (r"camencode\.conv1\.", "trunk.stem.0."),
    (r"camencode\.bn1\.", "trunk.stem.1."),
    *below(r"camencode\.layer1\.(\d+)\.", r"trunk.stages.0.\1.", BOTTLENECK),
    *below(r"camencode\.layer2\.(\d+)\.", r"trunk.stages.1.\1.", BOTTLENECK),
    (r"camencode\.depth_head\.", "depth."),
    (r"camencode\.image_head\.", "lifted."),
)
PYRAMID: Rules = (
    *below(r"resnet\.layer(\d+)\.(\d+)\.", r"stages.\1.\2.", BOTTLENECK),
    (r"deblocks\.", "enlarge."),
    (r"single_head_(\d+)\.", r"foreground.\1."),
)
SHARED: Rules = (
    *below(r"pyramid_backbone\.", "fusion.", PYRAMID),
    (r"shrink_conv\.layers\.0\.double_conv\.", "neck."),
    (r"cls_head\.", "head.score."),
    (r"reg_head\.", "head.box."),
    (r"dir_head\.", "head.direction."),
)


def renamed(state: Mapping[str, Tensor], rules: Rules) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under their new names, and the names that no rule knows.

    A rule is a pattern for the beginning of a name and what replaces it; the first one that fits is taken.
    """
    new: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        for pattern, replacement in rules:
            if re.match(pattern, name):
                new[re.sub(f"^{pattern}", replacement, name, count=1)] = value
                break
        else:
            unknown.append(name)
    return new, unknown
