"""How many samples a training pair makes; without torch, so that a study's spec can count with it."""

SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]  # in pixels; number 4 is none
NO_SHIFT = SHIFTS.index((0, 0))
SAMPLES_PER_PAIR = 2 * len(SHIFTS)  # every shift, with the two images in both orders
