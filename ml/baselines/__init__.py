"""The systems that Qayyum et al. 2017 compare theirs with, each from its own paper, in the fewest lines.

Their sources and where we deviate from them stand beside each in `ml.comparing.METHODS`. They are there to be
measured (`manage.py compare_methods`), not to be served. No Django.
"""
