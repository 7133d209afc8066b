"""Tells experiment trackers (TensorBoard, MLflow) what a job's events tell, once, beside the dispatcher."""
