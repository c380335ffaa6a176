"""A config as those of GReaTer's experiments/configs, for the demonstration model."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Keys and values; the command line may set each of them, `--config.n_steps=20`."""
    config = config_dict.ConfigDict()

    config.result_prefix = "results/transfer_smollm2"

    config.tokenizer_paths = ["smollm2-135m"]
    config.model_paths = ["smollm2-135m"]
    config.devices = ["cpu"]

    config.train_data = ""
    config.test_data = ""
    config.n_train_data = 50
    config.n_test_data = 0

    config.control_init = (
        " proper logical reasoning and think step by step. Finally give the actual correct answer."
    )
    config.extractor_text = "Therefore, the final answer, $ True $ or $ False $, is $ "
    config.n_steps = 105
    config.topk = 10
    config.topq = 5
    config.control_weight = 0.2
    config.target_weight = 1.0

    return config
