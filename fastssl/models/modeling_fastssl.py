"""Loads an encoder of FastSSL with transformers: ``AutoModel.from_pretrained(folder, trust_remote_code=True)``.

``fastssl export --to huggingface`` copies this file into folders whose model needs it.
"""

from typing import Any

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

        self.encoder = build_encoder(config.encoder)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass  # the network initialises itself

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        features = self.encoder.network(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=self.encoder(pixel_values))
