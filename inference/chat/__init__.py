"""The model's own chat template: messages become text, and that text becomes token ids."""

from inference.chat.encoding import encode_chat
from inference.chat.template import ChatTemplate

__all__ = ["ChatTemplate", "encode_chat"]
