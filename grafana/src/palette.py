"""
Colours by meaning, from Okabe and Ito's palette: told apart with any kind of colour vision, on light and dark.

Masataka Okabe and Kei Ito, "Color Universal Design" (2008). What has no fixed name (a lab, a user, a job) has
Grafana's own palette, beside a legend that names it; no panel relies on colour alone.
"""

BLUE, SKY, ORANGE, VERMILION = "#0072B2", "#56B4E9", "#E69F00", "#D55E00"
GREEN, PURPLE, GREY, LIGHT = "#009E73", "#CC79A7", "#7F7F7F", "#B4B4B4"

COMPONENTS = {"cpu": BLUE, "dram": SKY, "gpu": ORANGE, "other": GREY}
OWNERS = {"jobs": BLUE, "system": PURPLE, "unallocated": LIGHT, "unexplained": VERMILION}
GPUS = {"in use": GREEN, "idle": ORANGE, "unknown": PURPLE, "free": LIGHT}
USE = {
    "0 %": VERMILION,
    "1 to 24 %": ORANGE,
    "25 to 49 %": SKY,
    "50 to 74 %": BLUE,
    "75 to 100 %": GREEN,
}
STATES = {
    "COMPLETED": GREEN,
    "FAILED": VERMILION,
    "OUT_OF_MEMORY": PURPLE,
    "TIMEOUT": ORANGE,
    "CANCELLED": GREY,
    "NODE_FAIL": BLUE,
    "PREEMPTED": SKY,
    "UNKNOWN": LIGHT,
}
