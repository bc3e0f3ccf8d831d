"""The settings to measure: every combination of lengths, token budgets, data types and devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError

__all__ = ["DEFAULT_LENGTHS", "Grid", "Setting"]

DEFAULT_LENGTHS: Final = (128, 256, 512)


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination; see `RerankConfig` for what each option means."""

    max_length: int
    max_batch_tokens: int | str = "auto"
    dtype: str = "auto"
    device: str | tuple[str, ...] = "auto"

    @property
    def device_name(self) -> str:
        """The device in one word, several joined by "+"."""
        return self.device if isinstance(self.device, str) else "+".join(self.device)

    def applied(self, config: RerankConfig) -> RerankConfig:
        """Return the options with this combination in them.

        Raises:
            ConfigError: A value is wrong.
        """
        return config.replace(
            max_length=self.max_length,
            max_batch_tokens=self.max_batch_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def __str__(self) -> str:
        """Name it in a few words."""
        return f"max_length {self.max_length}, budget {self.max_batch_tokens}, dtype {self.dtype}, {self.device_name}"


@dataclass(frozen=True, slots=True)
class Grid:
    """Values to combine; one that occurs twice counts once.

    Args:
        max_lengths: Most tokens of one pair.
        token_budgets: Most token positions in one forward pass, or "auto".
        dtypes: "auto", "float32", "float16" or "bfloat16".
        devices: As in `RerankConfig`: "cpu:2" is one setting with two workers, and a tuple of names likewise.
    """

    max_lengths: Sequence[int] = DEFAULT_LENGTHS
    token_budgets: Sequence[int | str] = ("auto",)
    dtypes: Sequence[str] = ("auto",)
    devices: Sequence[str | tuple[str, ...]] = ("auto",)

    def settings(self, config: RerankConfig) -> tuple[Setting, ...]:
        """Return all combinations, lengths changing fastest.

        Args:
            config: The options that all of them share.

        Raises:
            ConfigError: A list is empty, or a value can never be right: nothing is measured then.
        """
        for name in ("max_lengths", "token_budgets", "dtypes", "devices"):
            if not getattr(self, name):
                msg = f"{name} is empty: name at least one value to measure."
                raise ConfigError(msg)
        combined = product(self.devices, self.dtypes, self.token_budgets, self.max_lengths)
        found = [Setting(length, budget, dtype, device) for device, dtype, budget, length in combined]
        # A config brings loose forms, such as "fp16", into one form.
        configs = [setting.applied(config) for setting in found]
        return tuple(dict.fromkeys(Setting(c.max_length, c.max_batch_tokens, c.dtype, c.device) for c in configs))
