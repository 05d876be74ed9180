"""What tabs show: results and settings in, HTML, rows and images out."""
