# ruff: noqa: E402
"""The snippet of the guide that this toolkit began as, word for word. It runs on a checkpoint of the default size."""

import torch
from PIL import Image
from torchvision import transforms

# Load checkpoint
checkpoint = torch.load("coin_classifier_custom_best.pth")
classes = checkpoint["classes"]

# Recreate model
from coin_classifier_custom import CoinClassifier

model = CoinClassifier(num_classes=len(classes))
model.load_state_dict(checkpoint["model_state_dict"])
model.eval()

# Prepare image
transform = transforms.Compose(
    [
        transforms.Resize((256, 512)),  # Match training size
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
)

# Load and predict
img = Image.open("path/to/coin.jpg")
img_tensor = transform(img).unsqueeze(0)

with torch.no_grad():
    outputs = model(img_tensor)
    probabilities = torch.softmax(outputs, dim=1)
    confidence, predicted = torch.max(probabilities, 1)

    grade = classes[predicted.item()]
    conf_pct = confidence.item() * 100

    print(f"Predicted Grade: {grade}")
    print(f"Confidence: {conf_pct:.2f}%")

    # Show top 3 predictions
    top3_conf, top3_idx = torch.topk(probabilities, 3)
    print("\nTop 3 Predictions:")
    for i in range(3):
        print(f"  {classes[top3_idx[0][i]]}: {top3_conf[0][i] * 100:.2f}%")
