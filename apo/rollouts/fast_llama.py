"""The Llama family, one token at a time, several times faster than through the model's own modules.

What costs time at a few million parameters is not arithmetic.  Against `transformers`' loop this one (1) computes the
linear layers in bf16 where the hardware does, from weights cast once per request; (2) joins q, k, v and gate, up into
one product each; (3) attends in fp32 by two batched products over a cache that is *dense*: capacity grows by `GROWTH`
columns at a time and attention runs over all of it, unused columns masked.  Reading the filled part of a larger buffer
instead is three times slower on a CPU, and bf16 attention with a single query 1.2 to 1.7 times.

The numbers are those of the model's own forward pass, under autocast if the precision is bf16: residual stream, norms
and rotary embedding stay in the weights' precision or fp32.  `reproduces` compares the two before anything is sampled.

Shapes: B rows, T tokens, C capacity of the cache, H query heads, K key-value heads, G = H / K, D head size, E width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apo.rollouts.decoder import Decoder, Unsupported, attended

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
STATIC_ROPE = ("default", "linear", "llama3")
"""Rotary embeddings that do not change with the length of the text."""
GROWTH = 32
FUSE_BELOW = 500_000_000
"""Parameters up to which weights are copied to be joined; larger models are used in place."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Largest difference of logits in the check, over the largest logit."""


def reason_against(model) -> str | None:
    """Why this model cannot take the fast path; None if it can."""
    config = model.config
    if type(model).__name__ not in FAMILY:
        return f"{type(model).__name__} is not of the family"
    if config.hidden_act not in ("silu", "swish"):
        return f"activation {config.hidden_act}"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "sliding-window attention"
    if type(model).__name__ == "MistralForCausalLM" and config.sliding_window is not None:
        return "sliding-window attention"
    if model.model.rotary_emb.rope_type not in STATIC_ROPE:
        return f"rotary embedding of type {model.model.rotary_emb.rope_type}"
    linears = [part for name, part in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    if any(type(part) is not nn.Linear for part in linears):
        return "adapters or quantised layers"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "more than one device"
    return None


class Projection:
    """Linear layers that read the same input: one product where their weights may be copied, else one each."""

    def __init__(self, *layers: nn.Linear, dtype: torch.dtype, fuse: bool):
        groups = [layers] if fuse else [[layer] for layer in layers]
        self.parts = [(joined([layer.weight for layer in group], dtype),
                       None if group[0].bias is None else joined([layer.bias for layer in group], dtype))
                      for group in groups]

    def __call__(self, x: Tensor) -> Tensor:
        outputs = [F.linear(x, weight, bias) for weight, bias in self.parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


def joined(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    tensors = [tensor.detach() for tensor in tensors]
    return (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).to(dtype)


class Layer:
    """The weights of one decoder layer, cast and joined."""

    def __init__(self, layer, dtype: torch.dtype, fuse: bool):
        attention, mlp = layer.self_attn, layer.mlp
        self.attention_norm, self.mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = Projection(attention.q_proj, attention.k_proj, attention.v_proj, dtype=dtype, fuse=fuse)
        self.out = Projection(attention.o_proj, dtype=dtype, fuse=fuse)
        self.gate_up = Projection(mlp.gate_proj, mlp.up_proj, dtype=dtype, fuse=fuse)
        self.down = Projection(mlp.down_proj, dtype=dtype, fuse=fuse)


class Cache:
    """Keys and values of every layer, [B, K, C, D], and what may be attended to, [B or 1, 1, 1, C] (0 or -inf)."""

    def __init__(self, num_layers: int):
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers
        self.bias: Tensor | None = None
        self.length = 0

    def open_column(self) -> None:
        """Make room for one more token and let it be seen."""
        if self.length == self.bias.shape[-1]:
            self.bias = F.pad(self.bias, (0, GROWTH), value=-torch.inf)
            for kind in (self.keys, self.values):
                for i, tensor in enumerate(kind):
                    kind[i] = torch.cat([tensor, tensor.new_zeros(*tensor.shape[:2], GROWTH, tensor.shape[3])], 2)
        self.bias[..., self.length] = 0
        self.length += 1

    def select(self, rows: Tensor) -> None:
        for kind in (self.keys, self.values):
            for i, tensor in enumerate(kind):
                kind[i] = tensor.index_select(0, rows)
        if self.bias.shape[0] > 1:
            self.bias = self.bias.index_select(0, rows)


class LlamaDecoder(Decoder):
    """Raises Unsupported if the model's arithmetic is not the family's."""

    def __init__(self, model, dtype: torch.dtype):
        against = reason_against(model)
        if against:
            raise Unsupported(against)
        config, body = model.config, model.model
        weights = body.embed_tokens.weight
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = body.layers[0].self_attn.head_dim
        self.dtype = dtype
        self.cache_dtype = torch.float32 if weights.device.type == "cpu" else dtype
        self.embeddings = weights.detach()
        self.rotary, self.norm = body.rotary_emb, body.norm
        fuse = sum(parameter.numel() for parameter in model.parameters()) < FUSE_BELOW
        self.layers = [Layer(layer, dtype, fuse) for layer in body.layers]
        self.head = Projection(model.lm_head, dtype=dtype, fuse=fuse)

    def reproduces(self, ids_BT: Tensor, logits_BTV: Tensor) -> bool:
        """Do prompt and step give these logits, the model's own of the last two positions?"""
        ours_BTV = torch.stack([self.prefill(ids_BT[:, :-1], None), self.step(ids_BT[:, -1])], 1).float()
        difference = (ours_BTV - logits_BTV.float()).abs().max()
        return bool(difference <= TOLERANCE[self.dtype] * logits_BTV.abs().max())

    def prefill(self, ids_BT, padding_B):
        self.cache = Cache(len(self.layers))
        self.padding_B = padding_B
        length = self.cache.length = ids_BT.shape[1]
        device = ids_BT.device
        positions_BT = torch.arange(length, device=device).unsqueeze(0)
        seen_BT = torch.ones_like(positions_BT, dtype=torch.bool)
        visible_BTT = None
        if padding_B is not None:
            positions_BT = (positions_BT - padding_B.unsqueeze(-1)).clamp(min=0)
            seen_BT = attended(ids_BT, padding_B)
            own = torch.eye(length, dtype=torch.bool, device=device)  # padding sees itself, lest it see nothing: NaN
            visible_BTT = (seen_BT.unsqueeze(1) & own.new_ones(length, length).tril() | own).unsqueeze(1)
        self.cache.bias = torch.zeros(seen_BT.shape, device=device, dtype=self.cache_dtype)
        self.cache.bias = self.cache.bias.masked_fill(~seen_BT, -torch.inf)[:, None, None]

        def attend(i: int, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
            self.cache.keys[i], self.cache.values[i] = k_BKTD.contiguous(), v_BKTD.contiguous()
            return F.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, attn_mask=visible_BTT,
                                                  is_causal=visible_BTT is None, enable_gqa=self.heads > self.kv_heads)

        return self._forward(ids_BT, positions_BT, attend)

    def step(self, tokens_B):
        positions_BT = torch.full((1, 1), self.cache.length, device=tokens_B.device)
        if self.padding_B is not None:
            positions_BT = positions_BT - self.padding_B.unsqueeze(-1)
        self.cache.open_column()
        return self._forward(tokens_B.unsqueeze(-1), positions_BT, self._attend_to_cache)

    def select(self, rows):
        self.cache.select(rows)
        if self.padding_B is not None:
            self.padding_B = self.padding_B[rows]

    def _attend_to_cache(self, i: int, q_BH1D: Tensor, k_BK1D: Tensor, v_BK1D: Tensor) -> Tensor:
        """One query per head.  The heads that share a key head take the place of the query's length."""
        keys_BKCD, values_BKCD = self.cache.keys[i], self.cache.values[i]
        keys_BKCD[:, :, self.cache.length - 1] = k_BK1D[:, :, 0]
        values_BKCD[:, :, self.cache.length - 1] = v_BK1D[:, :, 0]
        q_BKGD = q_BH1D.reshape(len(q_BH1D), self.kv_heads, -1, self.head_dim) * self.head_dim**-0.5
        scores_BKGC = torch.matmul(q_BKGD, keys_BKCD.transpose(-1, -2)) + self.cache.bias
        mixed_BKGD = torch.matmul(scores_BKGC.softmax(-1), values_BKCD)
        return mixed_BKGD.reshape(q_BH1D.shape)

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor, attend) -> Tensor:
        h_BTE = F.embedding(ids_BT, self.embeddings)
        cos_BTD, sin_BTD = self.rotary(h_BTE.float(), positions_BT)
        sin_BTD = torch.cat([-sin_BTD[..., : self.head_dim // 2], sin_BTD[..., self.head_dim // 2:]], -1)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(self._normed(h_BTE, layer.attention_norm))
            mixed_BHTD = attend(i, *self._split_heads(qkv, cos_BTD.unsqueeze(2), sin_BTD.unsqueeze(2)))
            h_BTE = h_BTE + layer.out(mixed_BHTD.transpose(1, 2).flatten(2).to(self.dtype))
            gate, up = layer.gate_up(self._normed(h_BTE, layer.mlp_norm)).chunk(2, -1)
            h_BTE = h_BTE + layer.down(F.silu(gate) * up)
        return self.head(self._normed(h_BTE[:, -1], self.norm))

    def _normed(self, h: Tensor, norm) -> Tensor:
        return F.rms_norm(h.float(), h.shape[-1:], norm.weight.float(), norm.variance_epsilon).to(self.dtype)

    def _split_heads(self, qkv: Tensor, cos: Tensor, signed_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, H, T, D] and k [B, K, T, D], rotated, and v [B, K, T, D].  Rotation pairs dimension d with d + D/2."""
        heads = qkv.unflatten(-1, (-1, self.head_dim)).to(self.cache_dtype)
        qk, v = heads.split([self.heads + self.kv_heads, self.kv_heads], 2)
        qk = (qk * cos + qk.roll(self.head_dim // 2, -1) * signed_sin).to(self.cache_dtype).transpose(1, 2)
        q, k = qk.split([self.heads, self.kv_heads], 1)
        return q, k, v.transpose(1, 2)
