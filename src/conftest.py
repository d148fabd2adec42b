"""For doctests: what cannot be imported without libraries that are optional is not looked into."""

# pytest would keep a module whose import failed, half made, for the tests that come after.
collect_ignore = ["batchnorm/surgery/timm_blocks.py", "batchnorm/surgery/torchvision_blocks.py"]
