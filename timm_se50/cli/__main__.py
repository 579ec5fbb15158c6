"""`python -m timm_se50.cli`, where the command is not on the path."""
from .main import main

main(prog_name='timm-se50')
