"""What every room stands on: names, plain values, plug-ins, tables, files that are whole or absent, processes that wait
for each other. It knows the contracts and nothing of images, experiments or MLflow."""
