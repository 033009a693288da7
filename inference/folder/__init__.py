"""Model folders as Hugging Face and MLX have them: config.json, *.safetensors and tokenizer.json.

Importing this imports the standard library alone; `inference.folder.tokenizer` needs the package `tokenizers`.
"""

from inference.folder.folder import Folder, SpecialTokens
from inference.folder.reader import is_folder, read_folder
from inference.folder.safetensors import StoredTensor

__all__ = ["Folder", "SpecialTokens", "StoredTensor", "is_folder", "read_folder"]
