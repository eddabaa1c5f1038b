"""Fused kernels: data, forward, backward and AdamW in one compiled loop, instance by instance."""
