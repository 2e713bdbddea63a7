"""Loads an encoder of FastSSL with transformers: ``AutoModel.from_pretrained(folder, trust_remote_code=True)``.

``fastssl export --to huggingface`` copies this file into folders whose model needs it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class FastSSLConfig(PretrainedConfig):
    """The options of ``fastssl.models.build_encoder``."""

    model_type = "fastssl"

    def __init__(self, encoder: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.encoder = encoder or {"name": "resnet", "size": 32}
        super().__init__(**kwargs)


class FastSSLModel(PreTrainedModel):
    """Images [B, channels, S, S] in [-1, 1] to a feature map (or vectors) and its mean, ``pooler_output`` [B, C]."""

    config_class = FastSSLConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FastSSLConfig) -> None:
        super().__init__(config)
        from fastssl.models import build_encoder

        with torch.device("cpu"):  # transformers builds on the meta device, where no network can try itself
            self.encoder = build_encoder(config.encoder)
        for module in self.encoder.modules():  # masks: stored with the weights, since transformers empties the others
            for name in sorted(module._non_persistent_buffers_set):
                module.register_buffer(name, getattr(module, name))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass  # the network initialises itself

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        features = self.encoder.network(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=self.encoder(pixel_values))
