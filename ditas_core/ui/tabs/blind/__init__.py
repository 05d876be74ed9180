"""Two pictures from the same noise: which is quantized?"""
