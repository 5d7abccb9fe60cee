"""What the process that trainings are forked from imports once."""

import torch  # noqa: TID253
from accelerate import Accelerator  # noqa: F401, TID253
from datasets import Dataset  # noqa: F401, TID253
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401, TID253

from qwenft_assets.training import train  # noqa: F401

torch.set_num_threads(1)
