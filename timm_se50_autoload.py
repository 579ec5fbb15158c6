"""Makes the plugin known to timm as soon as timm is imported, so that nobody has to import the plugin.

timm looks for no plugins, but PyTorch does: at the end of `import torch` it loads and calls each entry point of the
group `torch.backends`, and timm imports torch before its own models. So the entry point notes a hook and returns.

This is a module of its own, beside the package, because loading an entry point imports the package that it is in: in
timm_se50/, `import torch` would import timm_se50/__init__.py and with it timm. A package that is empty until it is used
is no way out: with TIMM_SE50_AUTOLOAD=0 a user's own `import timm_se50` would find it imported, and register nothing.
"""
import os
import sys
import warnings

__all__ = ['autoload']


def autoload() -> None:
    """Have timm_se50 imported right after `timm.models` is. The entry point that PyTorch calls; never raises.

    Does nothing where the environment has TIMM_SE50_AUTOLOAD=0, nor when it is called once more.
    """
    if os.environ.get('TIMM_SE50_AUTOLOAD') != '0' and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds `timm.models` as the other finders do, and has the plugin imported when that module has run."""

    # Not wrapt.register_post_import_hook(): its finder calls importlib.util.find_spec(), which imports the parent,
    # timm, while Python's import lock is held. Where another thread is importing timm, both then wait for ever.

    asking = False  # the other finders, one of which may ask all others in turn

    def find_spec(self, name, path=None, target=None):
        if name != 'timm.models' or self.asking:
            return None
        finders = (f for f in sys.meta_path if f is not self and hasattr(f, 'find_spec'))  # Python too passes over one
        others = (finder.find_spec(name, path, target) for finder in finders)
        self.asking = True
        try:
            spec = next(filter(None, others), None)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                if module.__name__ == 'timm.models' and self in sys.meta_path:  # in a zip, modules share their loader
                    sys.meta_path.remove(self)
                    _import_plugin()

            spec.loader.exec_module = exec_module
        return spec


def _import_plugin() -> None:
    try:
        import timm_se50  # noqa: F401
    except Exception as e:  # raised from here, it would come out of the user's `import timm`
        message = (
            f'timm-se50 could not be loaded, so timm does not know its models. {type(e).__name__}: {e}. '
            'Try: pip install --upgrade timm-se50 timm. To go on without it, set TIMM_SE50_AUTOLOAD=0.')
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        except RuntimeWarning:  # python -W error
            print(message, file=sys.stderr)
