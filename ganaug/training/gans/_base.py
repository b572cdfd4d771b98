"""What every GAN has: networks with an average, seeded random numbers, optimizer steps that skip what is not finite,
and a state of named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ganaug.config import FitConfig
from ganaug.distributed import sum_over_processes, world_size
from ganaug.training.batches import derived_seed
from ganaug.training.ema import update_ema
from ganaug.training.schedules import cosine


class BaseGAN:
    """Networks, the average of the generator, and two optimizers: of the discriminator and of the generator."""

    def __init__(
        self,
        config: FitConfig,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        average: nn.Module,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.config, self.device, self.bf16 = config, device, bf16
        self.generator, self.discriminator, self.average = generator, discriminator, average
        self.optimizers = [self._adam(discriminator), self._adam(generator)]
        self.random = torch.Generator(device)
        self.attempt = 0
        """Rollbacks so far: each one draws other random numbers and halves the learning rate."""

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        betas = (self.config.beta1, self.config.beta2[0])
        return torch.optim.Adam(network.parameters(), lr=self.config.lr[0], betas=betas, fused=True)

    def _schedule(self, progress: float) -> None:
        config = self.config
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = cosine(config.lr, progress, config.burn_in) * 0.5**self.attempt
                group["betas"] = (config.beta1, cosine(config.beta2, progress, config.burn_in))

    def _update(self, which: int, loss: Tensor) -> Tensor:
        """Let an optimizer take its step, unless loss or gradients are not finite; return 0, or NaN if it did not."""
        optimizer = self.optimizers[which]
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        sum_over_processes([*gradients, loss])
        # A step that left the finite numbers is skipped, not repaired, and the loop counts it. The optimizer's kernel
        # skips it itself, as it does for torch.amp.GradScaler: asking here would make a GPU wait for its answer.
        # A gradient may be NaN where the loss is not.
        largest = torch.stack(torch._foreach_norm(gradients, torch.inf)) if gradients else loss
        bad = ~(torch.isfinite(loss) & torch.isfinite(largest).all())
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return torch.where(bad, torch.nan, 0.0)

    def _update_average(self, images: int, progress: float) -> None:
        """Move the average after a step of `images` in this process."""
        # Of the batch's statistics each process has seen its part. A number alone is a setting.
        seen = [buffer for buffer in self.generator.buffers() if buffer.ndim] if world_size() > 1 else []
        if seen:
            sum_over_processes(seen)
            torch._foreach_div_(seen, world_size())
        update_ema(
            self.average,
            self.generator,
            images=images * world_size(),
            half_life_kimg=cosine(self.config.ema_half_life_kimg, progress, self.config.burn_in),
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _seed(self, step: int, use: str) -> None:
        self.random.manual_seed(derived_seed(self.config.seed, "step", step, self.attempt, use))

    def _seeded(self, step: int, use: str, *shape: int) -> Tensor:
        self._seed(step, use)
        return torch.randn(*shape, generator=self.random, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the full state as named tensors: networks, optimizers, and what `_more_state` adds."""
        named = dict(self._more_state())
        for name, network in self._networks().items():
            named |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
        for which, optimizer in enumerate(self.optimizers):
            for index, entries in optimizer.state_dict()["state"].items():
                named |= {f"adam{which}/{index}/{key}": value for key, value in entries.items()}
        return named

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            group, _, rest = key.partition("/")
            groups.setdefault(group, {})[rest] = value
        for name, network in self._networks().items():
            network.load_state_dict(groups[name])
        self._load_more_state(groups)
        for which, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in groups.get(f"adam{which}", {}).items():
                index, _, entry = key.partition("/")
                state.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            for parameter, entries in optimizer.state.items():
                for key, value in entries.items():
                    # The fused update walks through memory: moments need the layout of their parameter.
                    if value.shape == parameter.shape:
                        entries[key] = torch.empty_like(parameter).copy_(value)

    def _more_state(self) -> Mapping[str, Tensor]:
        return {}

    def _load_more_state(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        pass

    def _networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}
