"""toysup: is what a network can hold limited by its neurons or by its parameters?"""

__version__ = "0.1.0"
