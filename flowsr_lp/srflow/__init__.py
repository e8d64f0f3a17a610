"""SRFlow and SRFlow-LP as published."""
