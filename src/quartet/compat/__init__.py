"""Every private name of another library, each in one function with a reason and a test."""
