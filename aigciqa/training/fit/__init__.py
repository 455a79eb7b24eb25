"""A head from few ratings: frozen features, a ridge, honest figures."""
