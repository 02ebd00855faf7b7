"""Names of the related tasks, for pictures and tables."""

TASK_TITLES = {
    0: "started in 17YY, ended in 17",
    1: "happened in 17YY. Later, it is 17",
    2: "1599, 1607, 1633, 1679, 17YY, 17",
    3: "1799, 1753, 1733, 1701, 16YY, 16",
    4: "arithmetic progression to 17YY, 17",
    5: "17YY is smaller than 17",
    6: "ended in 17YY, started in 17",
    7: "from the year 7YY BC to the year 7",
    8: "price ranges from $ 17YY to $ 17",
    9: "five random years, 17",
}
