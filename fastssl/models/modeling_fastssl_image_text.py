"""Loads both towers of an image-text model with ``AutoModel.from_pretrained(folder, trust_remote_code=True)``.

``fastssl export --to huggingface`` copies this file into folders of runs with a text tower.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.clip.modeling_clip import CLIPOutput


class FastSSLImageTextConfig(PretrainedConfig):
    """Options of ``fastssl.models.build_encoder`` and ``TextTransformer``; ``outputs``: dimensions of the joint space;
    ``spatial``: the image head reads a feature map; ``biased``: logits have a bias (SigLIP)."""

    model_type = "fastssl-image-text"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        tower: dict[str, Any] | None = None,
        outputs: int = 128,
        spatial: bool = False,
        biased: bool = False,
        **kwargs: Any,
    ) -> None:
        self.encoder, self.tower = encoder or {"name": "resnet", "size": 32}, tower or {}
        self.outputs, self.spatial, self.biased = outputs, spatial, biased
        super().__init__(**kwargs)


class FastSSLImageTextModel(PreTrainedModel):
    """Images [B, channels, S, S] in [-1, 1] and tokens [B, L] to unit vectors [B, outputs] of one space, and to logits:
    cosines times the learned scale, plus the bias."""

    config_class = FastSSLImageTextConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FastSSLImageTextConfig) -> None:
        super().__init__(config)
        from fastssl.models import TextTransformer, build_encoder

        with torch.device("cpu"):  # transformers builds on the meta device, where no network can try itself
            self.encoder, self.tower = build_encoder(config.encoder), TextTransformer(**config.tower)
            features = self.encoder.shape_of(self.encoder.spatial)[1] if config.spatial else self.encoder.dim
            self.image_head = nn.Linear(int(features), config.outputs, bias=False)
            self.text_head = nn.Linear(self.tower.dim, config.outputs, bias=False)
            self.log_scale = nn.Parameter(torch.zeros(()))
            self.bias = nn.Parameter(torch.zeros(())) if config.biased else None
        for module in self.encoder.modules():  # masks: stored with the weights, since transformers empties the others
            for name in sorted(module._non_persistent_buffers_set):
                module.register_buffer(name, getattr(module, name))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass  # the networks initialise themselves

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> Tensor:
        """Unit vectors of images."""
        features = self.encoder.spatial(pixel_values) if self.config.spatial else self.encoder(pixel_values)
        return normalize(self.image_head(features), dim=1)

    def get_text_features(self, input_ids: Tensor, **_: Any) -> Tensor:
        """Unit vectors of the tokens of texts, padded with 0."""
        if input_ids.shape[1] > self.tower.length:
            length = f"at most {self.tower.length} tokens per text, got {input_ids.shape[1]}"
            raise ValueError(f"input_ids: expected {length}; the tokenizer cuts texts with truncation=True")
        return normalize(self.text_head(self.tower(input_ids)), dim=1)

    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **_: Any) -> CLIPOutput:
        """The vectors of what is given, and of both their logits."""
        texts = None if input_ids is None else self.get_text_features(input_ids)
        images = None if pixel_values is None else self.get_image_features(pixel_values)
        logits = None
        if texts is not None and images is not None:
            logits = images @ texts.T * self.log_scale.exp()
            logits = logits if self.bias is None else logits + self.bias
        return CLIPOutput(
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            image_embeds=images,
            text_embeds=texts,
        )
