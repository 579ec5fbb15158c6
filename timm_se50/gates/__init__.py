"""What the gates of SE modules do with images."""
from .collect import SE_MODULES, BlockGates, collect_gates, evaluating, gate_warnings, recording_gates
from .images import find_images, image_batches
from .report import check_plot, format_gates, gates_to_dict, plot_gates

__all__ = [
    'SE_MODULES', 'BlockGates', 'check_plot', 'collect_gates', 'evaluating', 'find_images', 'format_gates',
    'gate_warnings', 'gates_to_dict', 'image_batches', 'plot_gates', 'recording_gates',
]
