"""Optical flow of whole videos, computed once and stored: for who wants it on disk after all."""
