"""Has a cell changed between two runs, by more than it always does? And when did it, over all nights?"""
