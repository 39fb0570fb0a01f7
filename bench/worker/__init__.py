"""A trial's far side (supervisor and child) and near side (client), and the frames between them."""
