"""Sizes of a network's layers, and the memory that training keeps of them.

Memory is what autograd keeps, counted tensor by tensor on Llama and Qwen3 layers as transformers runs them (eager, and
not compiled). With a bytes of an arithmetic value, S noised + clean tokens of a row, D hidden size,
F feed-forward size, Q = heads x head size, K = key-value heads x head size and H heads, a layer keeps for each token:

    fully trained   16 D + 5 D a + 4 Q a + 4 F a + 4 H      (2 D a instead of 5 in float32, which copies nothing)
    LoRA of rank r   8 D + (5 D + Q) a + 4 Q a + 4 F a + 4 H + 7 r a
    query-key norm   + (Q + K) (4 + a)

Of these, 4 Q a is the dense attention's: queries, keys and values of each head, and its output. Over documents it is
r (Q + K) + (Q + K) a instead, with r bytes of a value after the rotary embedding (4 under autocast): keys are not
repeated for the heads that share them. The dense mask takes S a for each token, once for all layers; the masks of
documents 4 bytes for each pair in them, of which there are the most where each row is one document.
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
    matrices: int  # weights of all layers' matrices
    largest: int  # weights of the largest

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

    def kept(self, value: int, rank: int | None, documents: bool) -> int:
        """Bytes that one layer keeps for one token. value: bytes of an arithmetic value; documents: the attention."""
        d, f, q = self.hidden, self.feed_forward, self.queries
        copies = 5 if value < 4 else 2  # autocast casts the input of each matrix by itself
        rotated = 4 if rank is None else value  # autocast leaves what elementwise operations make in float32
        attention = (q + self.keys) * (rotated + value) if documents else 4 * q * value
        total = attention + 4 * f * value + 4 * self.heads + 8
        if rank is None:
            total += 16 * d + copies * d * value
        else:
            total += 8 * d + (copies * d + q + 7 * rank) * value
        if self.query_key_norm:
            total += (q + self.keys) * (4 + value)
        return total
