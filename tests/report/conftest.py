import pytest


@pytest.fixture
def make_row():
  """Builds a row of `results.jsonl`; keywords replace its values."""

  def build(method, accuracy, seed=0, **changes):
    row = {
      "dataset": "digits",
      "method": method,
      "victim": "small_cnn",
      "defence": "none",
      "seed": seed,
      "epochs": 2,
      "test_accuracy": accuracy,
      "peak_test_accuracy": accuracy,
      "peak_epoch": 2,
      "train_accuracy": 99.0,
      "balanced_accuracy": accuracy,
      "auc": 0.5,
      "seconds": 10.0,
      "curve": {
        "epoch": [1, 2],
        "train_loss": [1.0, 0.5],
        "train_accuracy": [50.0, 99.0],
        "test_accuracy": [40.0, accuracy],
      },
    }
    return row | changes

  return build
