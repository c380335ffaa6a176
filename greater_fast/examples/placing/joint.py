"""What joins a prompt to the text around it."""

from __future__ import annotations

from dataclasses import dataclass

from greater_fast.model.text.scripts import space_before, space_behind


@dataclass(frozen=True, slots=True)
class Joint:
    """How a prompt is joined: to a question by what its script has, or behind a `lead` of the text.

    A space that stands before the prompt belongs to it, that is to its first token; one behind it
    belongs to what follows. The prompt's script alone decides whether it has one, for the prompt
    has the same tokens on all rows.
    """

    prompt_first: bool = False
    lead: str | None = None

    def between(self, prompt: str) -> str:
        """What stands between prompt and question, or before the prompt."""
        if self.lead is not None:
            return self.lead
        return space_behind(prompt) if self.prompt_first else space_before(prompt)

    def placed(self, prompt: str) -> str:
        """The prompt with what joins it."""
        joint = self.between(prompt)
        return f"{prompt}{joint}" if self.prompt_first else f"{joint}{prompt}"

    def num_own(self, prompt: str) -> int:
        """Characters of that, from the first on, which the prompt's tokens hold."""
        return len(prompt) if self.prompt_first else len(self.placed(prompt))
