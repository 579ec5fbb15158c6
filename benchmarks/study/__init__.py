"""What warm_start.py is made of."""
