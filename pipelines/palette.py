"""The colors of kinds of steps. They are outside the code digests: a new color reruns nothing."""

GRAY, YELLOW, BROWN, BLUE, RED = "#9aa0a6", "#c9b458", "#a8764b", "#5b8def", "#d9705f"
DARK_BLUE, GREEN, PURPLE, DARK_GRAY, DARK_BROWN = "#2f5fc4", "#1b8a5a", "#b06fc9", "#444444", "#8d6e63"
