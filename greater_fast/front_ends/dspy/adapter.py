"""An adapter whose instructions come last, where they can be proposed knowing the question."""

from __future__ import annotations

from typing import Any

import dspy


class InstructionLast(dspy.ChatAdapter):
    """`ChatAdapter` with the instructions at the end of the user's message, not of the system's.

    There they follow the row's own question: what a model proposes for them differs from row to
    row, and the search takes what rows agree on. In front of the question all rows propose alike.
    """

    def format_task_description(self, signature: Any) -> str:
        """Nothing: the system message ends with the structure of the fields."""
        return ""

    def format_user_message_content(
        self,
        signature: Any,
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """The fields as `ChatAdapter` writes them; the main request ends with the instructions."""
        content: str = super().format_user_message_content(
            signature, inputs, prefix, suffix, main_request
        )
        if not main_request:
            return content
        return f"{content}\n\nYour objective is: {signature.instructions}"
