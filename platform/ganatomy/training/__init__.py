"""The only training loop, on one worker or many, the tasks that are trained in it, and how what was trained is applied
and scored. Knows no arm and no stage: what is trained, and on what, it is told."""
