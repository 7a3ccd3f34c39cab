"""mixbit"""
