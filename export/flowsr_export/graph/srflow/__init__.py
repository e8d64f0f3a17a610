"""SRFlow-LP restated for deployment."""
