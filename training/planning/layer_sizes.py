"""Sizes of a network's layers, and the activation memory of training.

The memory is that of the tensors that autograd saves, counted one by one on Llama and Qwen3 layers in transformers
(eager, not compiled). With a bytes per arithmetic value, S noised + clean tokens of a row, D hidden size,
F feed-forward size, Q = heads x head size, K = key-value heads x head size and H heads, a layer saves for each token:

    fully trained   16 D + 5 D a + 4 Q a + 4 F a + 4 H      (in float32 2 D a instead of 5 D a: no casts)
    LoRA of rank r   8 D + (5 D + Q) a + 4 Q a + 4 F a + 4 H + 7 r a      (in float32 2 D a instead of (5 D + Q) a)
    query-key norm   + (Q + K) (4 + a)      (LoRA in float32: 4 (Q + K))

LoRA in float32 on a bf16 base has a = 2, but PEFT casts the input of each adapter to float32: 4 (5 D + Q + F + 7 r) for
the adapters, and 3 F a instead of 4 F a.

Of these, 4 Q a is for dense attention: queries, keys and values of each head, and the output. The attention `documents`
saves s (Q + K) + (Q + K) a instead, with s bytes per value after the rotary embedding (4 under autocast of a float32
base), because it does not repeat keys for the heads that share them. The dense mask takes S a for each token, once for
all layers. The masks of `documents` take 4 bytes for each pair in them; a row that is one document has the most pairs.
"""

from dataclasses import dataclass

from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Layer:
    """Sizes of the layers of a network, read from its parameters."""

    hidden: int
    feed_forward: int
    queries: int
    keys: int
    heads: int
    number: int
    query_key_norm: bool
    matrices: int  # number of weights in the matrices of all layers
    largest: int  # number of weights in the largest matrix

    @classmethod
    def of(cls, network: PreTrainedModel) -> "Layer":
        config = network.config.get_text_config()
        sizes = {
            name: parameter.numel()
            for name, parameter in network.named_parameters()
            if parameter.ndim == 2 and ".layers." in name
        }
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = config.num_attention_heads
        return cls(
            hidden=config.hidden_size,
            feed_forward=config.intermediate_size,
            queries=heads * head,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * head,
            heads=heads,
            number=config.num_hidden_layers,
            query_key_norm=any(".q_norm." in name for name, _ in network.named_parameters()),
            matrices=sum(sizes.values()),
            largest=max(sizes.values(), default=0),
        )

    def kept(self, stored: int, autocast: bool, rank: int | None, documents: bool) -> int:
        """Bytes that one layer saves for one token.

        stored: bytes of a weight of the base. autocast: whether the arithmetic is in bf16 by autocast; else it is in
        the dtype of the base. rank: of LoRA; None without.
        """
        d, f, q = self.hidden, self.feed_forward, self.queries
        value = 2 if autocast else stored
        copies = 5 if autocast else 2  # autocast casts the input of each matrix separately
        rotated = 4 if autocast and stored == 4 else value  # results of elementwise operations stay in float32
        attention = (q + self.keys) * (rotated + value) if documents else 4 * q * value
        total = attention + 4 * f * value + 4 * self.heads + 8
        if rank is None:
            total += 16 * d + copies * d * value
        elif not autocast and stored < 4:
            total += 8 * d + 4 * (5 * d + q + f + 7 * rank) - f * value
        else:
            total += 8 * d + (copies * d + (q if autocast else 0) + 7 * rank) * value
        if self.query_key_norm:
            frozen = rank is not None and value == 4  # then its normalised values are not saved
            total += (q + self.keys) * (4 + (0 if frozen else value))
        return total

    def in_pieces(self, most: int, kept: int, tokens: int, value: int) -> int:
        """Of the bytes that the layer saves for `tokens` tokens, `kept`, those in tensors of at most `most` bytes."""
        if tokens * self.hidden * value > most:
            return 0
        wide = tokens * self.feed_forward * value  # four tensors
        return kept if wide <= most else max(0, kept - 4 * wide)
