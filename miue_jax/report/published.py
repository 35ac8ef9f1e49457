"""Published clean test accuracies, percent: CIFAR-10, ResNet-18, all 50,000 images, 8/255.

Without a defence and under adversarial training: Zhu et al., ICLR 2026 (arXiv 2603.03725). Under
grayscale and JPEG-10, and LSP and OPS without a defence: Liu et al., "Image Shortcut Squeezing",
ICML 2023. Papers differ by several points on the same method (EM 18 to 24, AP 8 to 11,
AR 12 to 20, NTGA 23 to 42).
"""

# Tables by name, each by (method, defence).
PUBLISHED: dict[str, dict[tuple[str, str], float]] = {
  "cifar10": {
    ("clean", "none"): 94.45,
    ("random", "none"): 94.11,
    ("em", "none"): 24.17,
    ("ap", "none"): 11.21,
    ("ntga", "none"): 23.11,
    ("ar", "none"): 17.41,
    ("rem", "none"): 22.94,
    ("sem", "none"): 14.78,
    ("gue", "none"): 12.04,
    ("tue", "none"): 11.25,
    ("miue", "none"): 9.95,
    ("lsp", "none"): 19.07,
    ("ops", "none"): 36.55,
    ("clean", "grayscale"): 92.41,
    ("em", "grayscale"): 93.01,
    ("ap", "grayscale"): 9.11,
    ("lsp", "grayscale"): 82.47,
    ("ar", "grayscale"): 34.04,
    ("ops", "grayscale"): 42.44,
    ("clean", "jpeg10"): 85.38,
    ("em", "jpeg10"): 81.50,
    ("ap", "jpeg10"): 83.87,
    ("lsp", "jpeg10"): 83.01,
    ("ar", "jpeg10"): 85.15,
    ("ops", "jpeg10"): 82.53,
    ("clean", "at8"): 85.10,
    ("em", "at8"): 84.57,
    ("sem", "at8"): 85.99,
    ("rem", "at8"): 85.99,
    ("tue", "at8"): 84.10,
    ("miue", "at8"): 70.56,
    ("clean", "at6"): 87.54,
    ("em", "at6"): 85.42,
    ("sem", "at6"): 86.82,
    ("rem", "at6"): 81.91,
    ("tue", "at6"): 86.07,
    ("miue", "at6"): 45.55,
    ("clean", "at4"): 89.77,
    ("em", "at4"): 84.29,
    ("sem", "at4"): 29.77,
    ("rem", "at4"): 39.45,
    ("tue", "at4"): 89.29,
    ("miue", "at4"): 31.79,
    ("clean", "at2"): 91.95,
    ("em", "at2"): 52.81,
    ("sem", "at2"): 19.41,
    ("rem", "at2"): 30.64,
    ("tue", "at2"): 91.70,
    ("miue", "at2"): 17.39,
  }
}
SOURCE = {
  "cifar10": (
    "the published accuracy of a ResNet-18 that learned from all 50,000 images of CIFAR-10, not "
    "from this subset, network and schedule"
  )
}
