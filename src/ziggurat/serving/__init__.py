"""Serving trained models over HTTP: what passes the door, what computes, and what stands on Ray Serve.

`app`, `receiving`, `protocol`, `metrics` and `jobs` are the door: they import neither PyTorch nor Ray. `replica` computes, `group` on
several workers; `ray_app` puts both into Ray Serve's deployments.
"""
